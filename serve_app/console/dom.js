// Elements without markup: whatever comes from outside enters as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

// h("td", { class: "num", onclick }, "text", child, [more], null)
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function replace(parent, ...children) {
  parent.replaceChildren(...flat(children));
}

// Only where it differs, so that a poll moves no selection and no screen reader speaks twice.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function width(element, share) {
  element.style.width = `${(100 * Math.max(0, Math.min(1, share || 0))).toFixed(2)}%`;
}

let toastTimer = 0;

export function toast(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { place.hidden = true; }, 5000);
}

// A question with two answers, as a promise of true or false. Escape says no.
export function ask(question, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": question },
      h("form", { method: "dialog" },
        h("p", {}, question),
        h("div", { class: "actions" },
          h("button", { value: "yes", class: "primary" }, yes),
          h("button", { value: "no" }, "Back"))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);
}
