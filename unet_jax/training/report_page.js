"use strict";
// Zooms a chart: drag over a part of it, or use the buttons. The vertical axis follows the curves in view.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg"), box = figure.querySelector(".box"), band = figure.querySelector(".band");
  const axes = ["x0", "x1", "y0", "y1"].map(name => Number(svg.dataset[name]));
  const points = [...svg.querySelectorAll("polyline.curve")].flatMap(line =>
    (line.getAttribute("points") || "").split(" ").filter(Boolean).map(pair => pair.split(",").map(Number)));
  let view = [0, 100], start = null;
  const number = value => Number(value.toPrecision(4)).toString();
  function show(left, right) {
    view = [Math.max(0, left), Math.min(100, right)];
    const whole = view[0] <= 0 && view[1] >= 100;
    const inside = points.filter(p => p[0] >= view[0] && p[0] <= view[1]).map(p => p[1]);
    let top = 0, bottom = 100;
    if (!whole && inside.length) {
      const margin = 0.05 * (Math.max(...inside) - Math.min(...inside)) + 0.5;
      top = Math.min(...inside) - margin; bottom = Math.max(...inside) + margin;
    }
    svg.setAttribute("viewBox", [view[0], top, view[1] - view[0], bottom - top].join(" "));
    const x = at => axes[0] + at / 100 * (axes[1] - axes[0]), y = at => axes[3] - at / 100 * (axes[3] - axes[2]);
    const labels = {x0: x(view[0]), x1: x(view[1]), y0: y(bottom), y1: y(top)};
    for (const name in labels) figure.querySelector("." + name).textContent = number(labels[name]);
    figure.querySelector(".whole").disabled = whole;
  }
  const place = event => {
    const frame = svg.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
  };
  box.addEventListener("pointerdown", event => { start = place(event); box.setPointerCapture(event.pointerId); });
  box.addEventListener("pointermove", event => {
    if (start === null) return;
    const now = place(event);
    band.style.left = 100 * Math.min(start, now) + "%";
    band.style.width = 100 * Math.abs(now - start) + "%";
  });
  const end = event => {
    if (start === null) return;
    const now = place(event), from = start, width = view[1] - view[0], left = view[0];
    start = null; band.style.width = "0";
    if (event.type === "pointerup" && Math.abs(now - from) > 0.02)
      show(left + Math.min(from, now) * width, left + Math.max(from, now) * width);
  };
  box.addEventListener("pointerup", end);
  box.addEventListener("pointercancel", end);
  box.addEventListener("dblclick", () => show(0, 100));
  figure.querySelector(".whole").addEventListener("click", () => show(0, 100));
  figure.querySelector(".closer").addEventListener("click", () => {
    const middle = (view[0] + view[1]) / 2, quarter = (view[1] - view[0]) / 4;
    show(middle - quarter, middle + quarter);
  });
}
