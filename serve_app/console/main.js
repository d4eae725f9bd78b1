// Which page is shown: the part of the address behind '#', one module each.

import { watchFreshness } from "./api.js";
import { batchPage } from "./batch.js";
import { batchesPage } from "./batches.js";
import { comparePage } from "./compare.js";
import { h, replace } from "./dom.js";
import { homePage } from "./home.js";

const PAGES = { "": homePage, home: homePage, batches: batchesPage, batch: batchPage, compare: comparePage };
const TITLES = { "": "Home", batches: "Batches", batch: "Batch", compare: "Compare" };

const content = document.getElementById("content");
let leaving = new AbortController();

function show() {
  leaving.abort();
  leaving = new AbortController();
  const [, name = "", ...rest] = location.hash.split("/").map(decodeURIComponent);
  const page = PAGES[name];
  document.title = `${TITLES[name] || "Not found"} · raybatch`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.page === (name === "batch" ? "batches" : name || "home");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  if (!page) return replace(content, h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/" }, "Home")));
  page(content, rest, leaving.signal);
}

// g h, g b, g c: as in many tools; / goes to the page's search field.
let pressed = "";
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    const field = content.querySelector("input[type=search]");
    if (field) { event.preventDefault(); field.focus(); }
  } else if (pressed === "g" && "hbc".includes(event.key)) {
    location.hash = { h: "#/", b: "#/batches", c: "#/compare" }[event.key];
  }
  pressed = event.key;
});

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); content.focus(); });
watchFreshness(document.getElementById("stale"), document.getElementById("link-state"));
window.addEventListener("hashchange", show);
show();
