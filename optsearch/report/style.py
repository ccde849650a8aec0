"""How pages look: on a desk, on a phone, on paper, by day and by night."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #5c6670; --ground: #ffffff; --sheet: #f5f6f7;
  --line: #d9dde1; --accent: #b93a4b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --quiet: #a2abb3; --ground: #16191c; --sheet: #1f2428;
  --line: #363d43; --accent: #ef7f8d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; }
.note, figcaption { color: var(--quiet); font-size: .9rem; max-width: 46rem; }
a { color: var(--accent); }
nav ol { margin: 1rem 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.figures div { background: var(--sheet); border-radius: .5rem; padding: .75rem 1rem; display: flex;
  flex-direction: column-reverse; justify-content: flex-end; }
.figures dt { color: var(--quiet); font-size: .9rem; line-height: 1.35; }
.figures dd { margin: 0; font-size: 1.45rem; font-weight: 600; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  min-width: 4rem; max-width: 34rem; overflow-wrap: break-word; }
th { color: var(--quiet); font-weight: 600; }
td.number { white-space: nowrap; }
pre { background: var(--sheet); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto; font-size: .88rem;
  line-height: 1.5; overflow-wrap: normal; }
figure { margin: 1rem 0; }
figure.chart { display: inline-block; vertical-align: top; width: calc(50% - 1rem); margin-right: .75rem; }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem; }
figcaption { margin-top: .25rem; }
.sheet { background: #ffffff; border-radius: .5rem; padding: .5rem; border: 1px solid var(--line); }
.sheet img { display: block; max-width: 100%; min-width: 48rem; height: auto; margin: 0 auto; }
@media (max-width: 60rem) { figure.chart { display: block; width: 100%; margin-right: 0; } }
@media (max-width: 30rem) { pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  main { padding: 1rem .9rem 3rem; } h1 { font-size: 1.5rem; }
  .figures { grid-template-columns: 1fr 1fr; } .figures dd { font-size: 1.2rem; } }
@media print { :root { --ink: #000; --quiet: #444; --ground: #fff; --sheet: #f5f6f7; --line: #ccc; }
  nav { display: none; } figure, table, pre, .figures div { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; } .sheet img { min-width: 0; } pre { white-space: pre-wrap; } }
"""
