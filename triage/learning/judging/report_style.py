"""The look of the report: one style sheet, inside the page, for light, dark and paper.

System fonts and no external resource. Colour is an addition: every state has a word or a shape of
its own. Contrast of text is at least 4.5 to 1 in both appearances (WCAG 2.2, 1.4.3).
"""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #f4f6f9; --card: #ffffff; --ink: #1c2430; --soft: #52606f; --line: #d9dfe7;
  --accent: #0b5fa5; --tint: #e8f1f9; --warn: #8a4b00; --warn-ground: #fff4e2;
  --stop: #a3123f; --stop-ground: #fdecf1; --good: #1c6b3c; --good-ground: #e7f5ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e131a; --card: #161d27; --ink: #e6ebf2; --soft: #9fadbd; --line: #2c3744;
    --accent: #6cb8f2; --tint: #182a3b; --warn: #f3b765; --warn-ground: #2e2413;
    --stop: #ff8fb0; --stop-ground: #34151f; --good: #7fd3a0; --good-ground: #14291d;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main { max-width: 68rem; margin: 0 auto; padding: 2.2rem 1.25rem 4rem; }
a { color: var(--accent); text-underline-offset: 0.15em; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 3px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
h1, h2, h3, h4 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 1.9rem; letter-spacing: -0.015em; }
h2 { font-size: 1.4rem; letter-spacing: -0.01em; }
h3 { font-size: 1.05rem; margin: 2rem 0 0.65rem; }
h4 { font-size: 0.92rem; margin: 1.2rem 0 0.5rem; }
p { margin: 0.4rem 0; max-width: 72ch; }
.eyebrow { color: var(--soft); font-size: 0.82rem; letter-spacing: 0.06em;
  text-transform: uppercase; margin: 0 0 0.3rem; }
.soft { color: var(--soft); }
.small { font-size: 0.86rem; }
.mono { font-family: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.84em; }
section.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.6rem 1.75rem 1.8rem; margin-top: 1.5rem; }
.note { max-width: none; border-left: 4px solid; border-radius: 6px;
  padding: 0.55rem 0.9rem; margin: 0.8rem 0; }
.note b { margin-right: 0.35em; }
.note ul { margin: 0.2rem 0 0; padding-left: 1.2rem; }
.note li + li { margin-top: 0.2rem; }
.note.warn { color: var(--warn); background: var(--warn-ground); }
.note.stop { color: var(--stop); background: var(--stop-ground); }
.note.plain { color: var(--ink); background: var(--tint); border-color: var(--accent); }
.tiles { display: grid; gap: 0.75rem; margin: 1.1rem 0 0.4rem; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(7.9rem, 1fr)); }
.tiles li { border: 1px solid var(--line); border-radius: 10px; padding: 0.65rem 0.75rem 0.7rem; }
.tiles .name { display: block; color: var(--soft); font-size: 0.82rem; }
.tiles .value { display: block; font-size: 1.55rem; font-weight: 650; line-height: 1.3;
  letter-spacing: -0.01em; }
.tiles .value.none { font-size: 1.05rem; font-weight: 500; color: var(--soft);
  line-height: 1.9; }
.tiles .detail { display: block; color: var(--soft); font-size: 0.82rem; line-height: 1.35; }
.tiles svg.whisker { width: 100%; height: auto; margin: 0.3rem 0 0.15rem; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1.3rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
caption { text-align: left; color: var(--soft); font-size: 0.86rem; padding: 0 0 0.5rem; }
th, td { padding: 0.42rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: baseline; overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: 0.82rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
td.words, th.words { text-align: left; }
td.name { overflow-wrap: anywhere; }
tr.group th { padding-top: 1rem; color: var(--soft); font-weight: 650; border-bottom: 0;
  font-size: 0.82rem; letter-spacing: 0.04em; text-transform: uppercase; }
.interval { color: var(--soft); font-size: 0.86em; white-space: nowrap; }
td .interval { display: block; }
.whole { white-space: nowrap; }
code { font: inherit; font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.9em; }
.tag { display: inline-block; border-radius: 99px; padding: 0.06rem 0.6rem; font-size: 0.8rem;
  white-space: nowrap; font-weight: 550; }
.tag.good { color: var(--good); background: var(--good-ground); }
.tag.warn { color: var(--warn); background: var(--warn-ground); }
.tag.stop { color: var(--stop); background: var(--stop-ground); }
.tag.plain { color: var(--soft); background: var(--ground); }
svg.whisker { display: inline-block; width: 7rem; height: 0.9rem; vertical-align: -0.1rem; }
.whisker .track { stroke: var(--line); stroke-width: 2; }
.whisker .range { stroke: var(--accent); stroke-width: 6; opacity: 0.5; }
.whisker .dot { fill: var(--accent); }
.whisker .mid { stroke: var(--soft); stroke-width: 1; }
.pair { display: grid; gap: 1.2rem 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; }
.plot img { width: 100%; height: auto; display: block; border-radius: 8px; }
.matrix { width: auto; min-width: 20rem; }
.matrix td, .matrix th { padding: 0.5rem 1rem; }
.matrix td b { font-size: 1.2rem; }
.matrix .wrong { background: var(--warn-ground); }
.matrix .right { background: var(--good-ground); }
.matrix td span { display: block; font-size: 0.8rem; color: var(--soft); }
.thumbs { display: grid; gap: 0.8rem; padding: 0; margin: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); }
.thumbs img, .thumbs .blank { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #000; border-radius: 8px; }
.thumbs .blank { background: var(--ground); color: var(--soft); padding: 0.8rem;
  font-size: 0.8rem; }
.thumbs figcaption { font-size: 0.78rem; line-height: 1.35; margin-top: 0.35rem; }
details { margin-top: 0.9rem; }
summary { cursor: pointer; color: var(--accent); font-weight: 550; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.4rem; margin: 0;
  font-size: 0.92rem; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; }
@media (max-width: 34rem) {
  section.card { padding: 1.1rem 1rem 1.3rem; border-radius: 10px; }
  dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: 0.5rem; }
}
@media print {
  :root { color-scheme: light; } body { background: #fff; font-size: 11pt; }
  section.card { border: 0; padding: 0; } details > * { display: block; }
  figure, tr, .tiles li { break-inside: avoid; }
}
"""
