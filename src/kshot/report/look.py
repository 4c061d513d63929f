"""The stylesheet of the page: book typography, tables with three rules, light and dark, narrow and printed."""

from kshot.report.canvas import DARK, VARIABLES


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"{name}: {colours[light]};" for light, name in VARIABLES.items())


_LIGHT = _variables({light: light for light in VARIABLES})

CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT}
  --sans: -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", system-ui, sans-serif;
  --serif: Charter, "Bitstream Charter", "Source Serif 4", Cambria, Georgia, "Liberation Serif", serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
""" + """
* { box-sizing: border-box; }
html { background: var(--paper); -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 61rem; padding: 3.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.55 var(--serif); }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 600; margin: 0 0 .5rem; text-wrap: balance;
  overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; font-weight: 600; margin: 3.25rem 0 .75rem; }
p { margin: 0 0 .9rem; max-width: 42rem; }
.lead { color: var(--muted); margin-bottom: 2rem; }
.result { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1.1rem; border-top: 2px solid var(--ink);
  padding-top: 1.1rem; }
.result b { font: 600 2.9rem/1.1 var(--sans); letter-spacing: -.02em; color: var(--accent); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.result b span { font-weight: 400; font-size: 1.6rem; letter-spacing: 0; }
.result p { flex: 1 1 18rem; margin: 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1.1rem 1.5rem;
  margin: 1.5rem 0 0; padding: 1.1rem 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
.facts dt { font: .8125rem/1.4 var(--sans); color: var(--muted); }
.facts dd { margin: .1rem 0 0; font: 500 1.0625rem/1.4 var(--sans); font-variant-numeric: tabular-nums; }
figure { margin: 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figcaption { font-size: .9375rem; line-height: 1.45; color: var(--muted); margin-top: .6rem; max-width: 42rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 2.25rem 2.75rem; }
.pair.one { max-width: 29rem; }
.wide { max-width: 39rem; }
.episode { --tile: 64px; display: grid; gap: .9rem 0; font: .8125rem/1.3 var(--sans); }
.class { display: grid; gap: 0 1.5rem; align-items: start;
  grid-template-columns: 1.4rem calc(var(--columns) * (var(--tile) + 12px) - 12px) 1fr;
  border-top: 1px solid var(--rule); padding-top: .9rem; }
.class:first-child { border-top: 0; padding-top: 0; }
.class > h3 { font: 600 1.125rem/var(--tile) var(--sans); margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px 12px; margin: 0; padding: 0; list-style: none; }
.tiles li { width: var(--tile); text-align: center; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tiles img { display: block; width: var(--tile); height: var(--tile); object-fit: contain;
  outline: 1px solid var(--rule); image-rendering: pixelated; margin-bottom: 5px; }
.tiles img.large { image-rendering: auto; }
.tiles .wrong img { outline: 2.5px solid var(--ink); outline-offset: 2px; margin-bottom: 7px; }
.wrong .said { background: var(--ink); color: var(--paper); border-radius: 3px; padding: 1px 4px; margin: 0 -6px;
  font-weight: 600; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.over { color: var(--muted); margin-bottom: -.5rem; }
.over + .class { border-top: 0; padding-top: 0; }
.over h3 { visibility: hidden; line-height: 1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font: .875rem/1.45 var(--sans); font-variant-numeric: tabular-nums;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); break-inside: auto; }
caption { text-align: left; font: 600 1rem/1.5 var(--serif); padding-bottom: .45rem; }
th, td { text-align: left; padding: .26rem .9rem .26rem 0; vertical-align: top; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; }
tbody th { font-weight: 400; color: var(--muted); width: 45%; }
tbody tr.group th { color: var(--ink); font-weight: 600; padding-top: .7rem; width: auto; }
tbody tr.group:first-child th { padding-top: .26rem; }
td { overflow-wrap: anywhere; }
.records { font-size: .8125rem; }
.records td, .records th { width: auto; color: var(--ink); white-space: nowrap; padding-right: .7rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 2rem 2.75rem; }
.columns > * { min-width: 0; }
.checked h3 { font: 600 1rem/1.5 var(--serif); margin: 0 0 .3rem; }
.checked ul { list-style: none; margin: 0 0 1.6rem; padding: 0; font: .875rem/1.5 var(--sans); }
.checked li { padding: .2rem 0 .2rem 1.4rem; position: relative; }
.checked li::before { content: "✓"; position: absolute; left: 0; color: var(--accent); }
.checked li.less::before { content: "!"; font-weight: 700; left: .25rem; }
.beside { width: auto; min-width: min(100%, 38rem); margin-bottom: .5rem; }
.beside td, .beside th { width: auto; white-space: nowrap; padding-right: 1.6rem; }
.scroll + .scroll { margin-top: 1.6rem; }
.note { font-size: .9375rem; color: var(--muted); }
pre { font: .84375rem/1.6 var(--mono); margin: 0 0 1.1rem; padding: .85rem 1rem; overflow-x: auto;
  border: 1px solid var(--rule); border-radius: 4px; }
code { font-family: var(--mono); font-size: .9em; }
pre code { font-size: 1em; }
footer { margin-top: 3.5rem; padding-top: .8rem; border-top: 1px solid var(--rule); font-size: .9375rem;
  color: var(--muted); overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 2rem 1rem 3rem; font-size: 1rem; }
  h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; }
  .result b { font-size: 2.3rem; }
  .class { grid-template-columns: 1.4rem 1fr; gap: .6rem .6rem; }
  .class .query { grid-column: 2; }
  .over { display: none; }
  .tiles::before { flex: 1 0 100%; color: var(--muted); }
  .support::before { content: "support"; } .query::before { content: "query"; }
  .class > h3 { line-height: 1; }
}
@media print {
  :root { color-scheme: light; LIGHT }
  @page { margin: 18mm 16mm; }
  html { font-size: 11.5px; }
  body { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 2rem; }
  .pair, .columns { grid-template-columns: 1fr 1fr; gap: 1.5rem 2rem; }
  .pair.one { grid-template-columns: 1fr; }
  .episode { --tile: 44px; gap: .5rem 0; font-size: 9.5px; }
  .class { padding-top: .5rem; }
  th, td { padding-top: .1rem; padding-bottom: .1rem; }
  .class, tr, pre, .result, .facts { break-inside: avoid; }
  pre { white-space: pre-wrap; }
}
""".replace("LIGHT", _LIGHT)
