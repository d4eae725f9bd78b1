// Pieces that several pages show.

import { h, width } from "./dom.js";
import { WORDS, count, doneShare, percent, stateOf } from "./format.js";

export function badge(state) {
  return h("span", { class: `badge ${state}` }, WORDS[state] || state);
}

export function progressBar(batch) {
  const { total, completed, failed } = batch.request_counts;
  const done = h("span", { class: "done" });
  const bad = h("span", { class: "bad" });
  width(done, total ? completed / total : 0);
  width(bad, total ? failed / total : 0);
  const words = `${count(completed + failed)} of ${count(total)} requests, ${count(failed)} failed`;
  return h("div", { class: `bar ${stateOf(batch)}`, role: "img", "aria-label": words, title: words }, done, bad);
}

export function figure(label, value, more) {
  return h("div", { class: "figure" }, h("dt", {}, label), h("dd", {}, value, more ? h("small", {}, more) : null));
}

export function progressWords(batch) {
  return batch.request_counts.total ? percent(doneShare(batch)) : "–";
}

export function emptyNote(...words) {
  return h("p", { class: "empty" }, ...words);
}

export function faultNote(error) {
  return h("p", { class: "fault", role: "alert" }, error.message);
}
