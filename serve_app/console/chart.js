// A line of what was seen while the page was open. Nothing is kept elsewhere.

import { svg } from "./dom.js";

const WIDE = 300;
const HIGH = 40;

export class Trail {
  constructor(most = 300) {
    this.most = most;
    this.values = [];
  }

  add(value) {
    this.values.push(Number.isFinite(value) ? value : 0);
    if (this.values.length > this.most) this.values.shift();
  }
}

export function sparkline(label) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const element = svg("svg", { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, area, line);
  return {
    element,
    draw(trail) {
      const values = trail.values.length > 1 ? trail.values : [0, 0];
      const top = Math.max(...values, 1e-9) * 1.08;
      const step = WIDE / (values.length - 1);
      const points = values.map((value, i) => `${(i * step).toFixed(1)},${(HIGH - 1 - (value / top) * (HIGH - 3)).toFixed(1)}`);
      line.setAttribute("d", `M${points.join("L")}`);
      area.setAttribute("d", `M0,${HIGH}L${points.join("L")}L${WIDE},${HIGH}Z`);
    },
  };
}
