// The chat's front end, for the notebook (anywidget calls `render`) and for the page (page.js calls `createChat`).
// No build step: words.py puts these files together. No markup from text: whatever anybody wrote goes in by textContent.

const ICONS = { // drawn, because not every machine has a font with these signs
  copy: "M8 8h11v11H8z M5 16V5h11",
  up: "M7 11l4-8c2 0 3 1 3 3v3h5l-2 10H7z M3 11h4v8H3z", down: "M17 13l-4 8c-2 0-3-1-3-3v-3H5L7 5h10z M21 13h-4V5h4z",
  retry: "M20 12a8 8 0 1 1-3-6 M20 3v5h-5", new: "M12 5v14 M5 12h14", json: "M12 4v11 M7 11l5 5l5-5 M5 20h14", markdown: "M12 4v11 M7 11l5 5l5-5 M5 20h14",
  orders: "M4 8l8-4l8 4v9l-8 4l-8-4z M4 8l8 4l8-4 M12 12v9", menu: "M4 7h16 M4 12h16 M4 17h16", close: "M6 6l12 12 M18 6L6 18",
  reset: "M4 12a8 8 0 1 0 3-6 M4 3v5h5", face: "M3 12c4-7 14-7 18 0c-4 7-14 7-18 0z M12 9v6 M9 12h6", assistant: "M4 5h16v11h-9l-5 4v-4H4z M9 10h.1 M12 10h.1 M15 10h.1",
};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "csp-icon", "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

function setText(element, text) {
  const node = element.firstChild;
  if (!node) element.append(document.createTextNode(text));
  else if (text !== node.data) {
    if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
    else node.data = text;
  }
}

function bar(share, kind = "") { // share: from 0 to 1; the figure itself stands beside it
  const filled = make("span");
  filled.style.width = `${100 * Math.min(1, share)}%`;
  return make("span", { class: `csp-bar ${kind}`, "aria-hidden": "true" }, filled);
}

function milliseconds(value) {
  if (value < 10) return `${Math.round(10 * value) / 10} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

function save({ name, mime, text }) {
  const url = URL.createObjectURL(new Blob([text], { type: mime }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const kept = { // what the reader chose, kept in the browser; a frame without storage forgets it
  get: (name) => { try { return localStorage.getItem(`csproto-${name}`); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(`csproto-${name}`, value); } catch { /* it holds until the page is left */ } },
};
