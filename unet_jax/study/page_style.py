"""The style of a study's pages, for a phone, paper, light and dark, and the script that sorts their tables."""

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
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--good); }
th[aria-sort=ascending] button::after { content: " \\25b2"; } th[aria-sort=descending] button::after {
  content: " \\25bc"; }
nav ul { columns: 16rem; padding-left: 1.2rem; } summary { cursor: pointer; padding: .4rem 0; font-weight: 600; }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 .7rem; } h1 { font-size: 1.5rem; }
  .verdict { font-size: 15px; } }
"""

SORTING = """
for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  const number = text => parseFloat(text.replace(/^[<\\s]+/, ""));
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [row.cells[column].textContent.trim(), row]);
      const numbers = rows.filter(([text]) => /[0-9]/.test(text));
      const numeric = numbers.length > 0 && numbers.every(([text]) => !isNaN(number(text)));
      const order = (a, b) => numeric ? number(a) - number(b) : a.localeCompare(b);
      const known = text => numeric ? !isNaN(number(text)) : text !== "";
      rows.sort(([a], [b]) => known(a) && known(b) ? sign * order(a, b) : known(b) - known(a));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
"""
"""Sorts a table by a column when its heading is clicked, by numbers where there are any; what has none comes last."""
