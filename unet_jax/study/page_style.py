"""The style of a study's page: readable on a phone, on paper, and in light and dark."""

STYLE = """
:root { color-scheme: light dark; --text: #222; --soft: #555; --line: #ddd; --back: #fff; --box: #eef3f8;
  --good: #0072b2; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e4; --soft: #aaa; --line: #444; --back: #16181b;
  --box: #20303d; --good: #6cb8e8; --bad: #f0925a; } img { background: #fff; border-radius: 4px; opacity: .92; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--back); overflow-wrap: break-word; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
a { color: var(--good); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: .5rem 0 1rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
td.left:last-child { white-space: normal; min-width: 11rem; }
.verdict { background: var(--box); border-left: 4px solid var(--good); padding: .7rem 1rem; font-size: 16px; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); } .unclear { color: var(--soft); }
img { max-width: 100%; } .note { color: var(--soft); font-size: 13px; } code { font-size: 12px; white-space: pre-wrap; }
.wide { overflow-x: auto; } figure { margin: .5rem 0 1rem; } figcaption { font-size: 13px; }
nav ul { columns: 16rem; padding-left: 1.2rem; } summary { cursor: pointer; padding: .4rem 0; font-weight: 600; }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 .7rem; } h1 { font-size: 1.5rem; }
  .verdict { font-size: 15px; } }
"""
