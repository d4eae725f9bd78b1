// A table of any number of rows: only what is in sight is in the page, and few pages of rows are kept.

import { h, replace } from "./dom.js";

const ROW_PX = 32;
const PAGE_ROWS = 100;
const PAGES_KEPT = 20;
const RETRY_MS = 1500;
const HEIGHT_MAX_PX = 8_000_000; // browsers end a little above 16 million

// columns: [{ name, class, cell(row) }]; load(offset, limit) -> { data, total }; open(row) for Enter and clicks.
export function virtualTable(label, columns, load, open) {
  const body = h("div", { class: "vt-rows" });
  const tall = h("div", { class: "vt-tall" }, body);
  const view = h("div", { class: "vt-view", tabindex: "0", role: "grid", "aria-label": label, "aria-colcount": columns.length }, headRow(columns), tall);
  const pages = new Map();
  const state = { total: 0, at: 0, version: 0, asked: new Set(), again: false, later: 0, drawn: "" };

  view.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  view.addEventListener("keydown", pressed);
  const sized = new ResizeObserver(draw);
  sized.observe(view);

  const seen = () => Math.max(1, Math.floor((view.clientHeight - ROW_PX) / ROW_PX));
  const height = () => Math.min(HEIGHT_MAX_PX, state.total * ROW_PX);
  // where every pixel is a row's, scrolling is exact; above that the bar is a share of the whole
  const exact = () => state.total * ROW_PX <= HEIGHT_MAX_PX;

  function first() {
    if (exact()) return Math.floor(view.scrollTop / ROW_PX);
    const way = Math.max(1, height() + ROW_PX - view.clientHeight);
    return Math.round(Math.min(1, view.scrollTop / way) * Math.max(0, state.total - seen()));
  }

  function draw() {
    const from = Math.max(0, first() - 4);
    const to = Math.min(state.total, first() + seen() + 6);
    fetchPages(from, to);
    const drawn = `${state.version}:${from}:${to}:${state.at}:${view.scrollTop > 0 && !exact() ? view.scrollTop : ""}`;
    if (drawn === state.drawn) return;
    state.drawn = drawn;
    const rows = [];
    for (let place = from; place < to; place += 1) rows.push(rowElement(place));
    const top = exact() ? from * ROW_PX : view.scrollTop - (first() - from) * ROW_PX;
    body.style.transform = `translateY(${top}px)`;
    replace(body, rows);
    view.setAttribute("aria-activedescendant", `row-${state.at}`);
  }

  function rowElement(place) {
    const row = at(place);
    return h("div", {
      class: `vt-row${place === state.at ? " at" : ""}${row && bad(row) ? " failed" : ""}${row ? "" : " waiting"}`,
      role: "row", id: `row-${place}`, "aria-rowindex": place + 2, "aria-selected": String(place === state.at),
      onclick: () => { choose(place); if (row) open(row); },
    }, columns.map((column) => h("div", { class: `vt-cell ${column.class || ""}`, role: "gridcell" }, row ? column.cell(row) : "")));
  }

  function at(place) {
    return pages.get(Math.floor(place / PAGE_ROWS))?.[place % PAGE_ROWS];
  }

  function fetchPages(from, to) {
    for (let page = Math.floor(from / PAGE_ROWS); page * PAGE_ROWS < to; page += 1) {
      const known = pages.get(page);
      if (state.asked.has(page) || known?.length === PAGE_ROWS || (known && known.length >= state.total - page * PAGE_ROWS)) continue;
      fetchPage(page);
    }
  }

  async function fetchPage(page) {
    const version = state.version;
    state.asked.add(page);
    let found = null;
    try {
      found = await load(page * PAGE_ROWS, PAGE_ROWS);
    } catch { /* the banner says it */ }
    if (version !== state.version) return;
    state.asked.delete(page);
    if (!found) {
      retry();
      return;
    }
    pages.delete(page);
    pages.set(page, found.data);
    if (pages.size > PAGES_KEPT) pages.delete(pages.keys().next().value);
    resize(found.total);
    state.drawn = "";
    draw();
    if (state.again && !state.asked.size) refresh();
  }

  // After a fault the table looks again by itself: the batch may have ended, and nothing else would ask.
  function retry() {
    clearTimeout(state.later);
    state.later = setTimeout(refresh, RETRY_MS);
  }

  // What is in sight is read again, and stays while it is; what was asked before is waited for, never taken for it.
  async function refresh() {
    state.again = state.asked.size > 0;
    if (state.again) return;
    const here = Math.floor(first() / PAGE_ROWS);
    for (const page of [...pages.keys()]) if (Math.abs(page - here) > 1) pages.delete(page);
    for (const page of [here, here + 1]) if (page * PAGE_ROWS <= state.total && (page === here || pages.has(page))) await fetchPage(page);
  }

  function resize(total) {
    state.total = total;
    tall.style.height = `${height()}px`;
    view.setAttribute("aria-rowcount", total + 1);
    view.classList.toggle("none", total === 0);
  }

  function choose(place) {
    state.at = Math.max(0, Math.min(state.total - 1, place));
    const top = exact() ? state.at * ROW_PX : (state.at / Math.max(1, state.total - seen())) * (height() + ROW_PX - view.clientHeight);
    const hidden = state.at < first() || state.at >= first() + seen();
    if (hidden) view.scrollTop = exact() && state.at >= first() ? top - (seen() - 1) * ROW_PX : top;
    draw();
  }

  function pressed(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: seen(), PageUp: -seen(), Home: -state.at, End: state.total - 1 - state.at };
    if (event.key in steps) {
      event.preventDefault();
      choose(state.at + steps[event.key]);
    } else if (event.key === "Enter" && at(state.at)) {
      event.preventDefault();
      open(at(state.at));
    }
  }

  return {
    element: view,
    get total() { return state.total; },
    // everything anew: another search or order
    restart() {
      state.version += 1;
      state.asked.clear();
      pages.clear();
      state.at = 0;
      view.scrollTop = 0;
      resize(0);
      fetchPage(0);
    },
    refresh,
    step(by) {
      choose(state.at + by);
      return at(state.at);
    },
    focus() { view.focus({ preventScroll: true }); },
    close() { sized.disconnect(); clearTimeout(state.later); },
  };
}

function headRow(columns) {
  return h("div", { class: "vt-row vt-head", role: "row", "aria-rowindex": 1 }, columns.map((column) => h("div", { class: `vt-cell ${column.class || ""}`, role: "columnheader" }, column.name)));
}

const bad = (row) => row.status_code === null || row.status_code >= 400;
