// What every part of the page uses: elements without innerHTML, calls to Python, toasts, dialogs, navigation.
// Names, tags and captions are hostile text: they only ever become text nodes, attributes set by name, or URLs made
// of ids. Nothing in these files assigns innerHTML.

export const STEPS = ["conception", "gathering", "curation", "tagging", "training", "testing"];
export const state = { project: "", step: "conception", overview: null };

const SVG = new Set(["svg", "path", "circle", "line", "polyline", "rect"]);

/** h("div.card", {onclick}, "text", child, ...): an element. Strings become text nodes; null and false are left out. */
export function h(tag, properties, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") node.style.cssText = value;
    else if (key === "value" || key === "checked") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const PATHS = {
  check: "M3.5 8.5l3 3 6-7", plus: "M8 3v10M3 8h10", undo: "M6 4L3 7l3 3M3 7h6.5a3.5 3.5 0 010 7H7",
  search: "M7 12A5 5 0 107 2a5 5 0 000 10zm3.6-1.4L14 14", right: "M6 3l5 5-5 5", left: "M10 3L5 8l5 5",
  moon: "M13 9.5A5.5 5.5 0 116.5 3a4.5 4.5 0 006.5 6.5z", keys: "M2 5h12v7H2zM4.5 7.5h.01M7 7.5h.01M9.5 7.5h.01M12 7.5h.01M5 10h6",
  close: "M4 4l8 8M12 4l-8 8", play: "M5 3.5v9l7-4.5z", stop: "M4 4h8v8H4z", pause: "M5.5 3.5v9M10.5 3.5v9",
  warn: "M8 2.5l6 11H2zM8 6.5v3.5M8 12h.01", trash: "M3 5h10M6.5 5V3h3v2M4.5 5l.6 8.5h5.8l.6-8.5", more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  image: "M2.5 3.5h11v9h-11zM2.5 11l3.5-3.5 3 3 1.5-1.5 3 3M10.5 6h.01", drop: "M8 10.5V2.5M5 5.5l3-3 3 3M2.5 10v3.5h11V10",
  bulb: "M6 11.5h4M6.5 14h3M6 11.5c0-1.8-2-2.4-2-5a4 4 0 118 0c0 2.6-2 3.2-2 5", save: "M8 2.5v7M5 7l3 3 3-3M2.5 11v2.5h11V11", lock: "M4 7.5h8V13H4zM5.5 7.5V5a2.5 2.5 0 015 0v2.5", cut: "M4.5 6a1.8 1.8 0 100-3.6 1.8 1.8 0 000 3.6zM4.5 13.6a1.8 1.8 0 100-3.6 1.8 1.8 0 000 3.6zM6 5.3l7.5 6.2M6 10.7l7.5-6.2", folder: "M2 4h4.5l1.5 2h6v7H2z", crop: "M4.5 1.5v10h10M1.5 4.5h10v10",
};
export function icon(name, size = 16) {
  return h("svg.ls-icon", { viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true" }, h("path", { d: PATHS[name] }));
}

/** The same; what had the keyboard's attention has it again when it is drawn anew under the same id. */
export function refill(node, ...children) {
  const held = node.contains(document.activeElement) ? document.activeElement.id : "";
  fill(node, ...children);
  const again = held && document.getElementById(held);
  if (again) again.focus({ preventScroll: true });
  return node;
}

/** A button with text and perhaps an icon. `kind`: "primary", "quiet", "danger" or "". */
export function button(text, onclick, { kind = "", icon: name, title, disabled, id, label } = {}) {
  const node = h("button.ls-button" + (kind ? "." + kind : ""), { type: "button", title, disabled, id, "aria-label": label }, name && icon(name), text);
  node.addEventListener("click", async (event) => {
    if (node.dataset.busy) return;
    node.dataset.busy = "1";
    try { await onclick(event); } catch (error) { if (!(error instanceof Failure)) throw error; } finally { delete node.dataset.busy; }
  });
  return node;
}

export const number = (value) => Number(value).toLocaleString("en-US").replaceAll(",", "\u202f");
export const plural = (count, word, many) => `${number(count)} ${count === 1 ? word : many || word + "s"}`;
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = value > 0 ? Math.min(4, Math.floor(Math.log(value) / Math.log(1024))) : 0;
  return `${(value / 1024 ** power).toFixed(power < 2 || value / 1024 ** power >= 100 ? 0 : 1)} ${units[power]}`;
}
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// ---- Python -------------------------------------------------------------------------------------------------------

export class Failure extends Error {
  constructor({ message, remedy }) { super(message); this.remedy = remedy || ""; }
}
let openBridge;
const bridge = new Promise((resolve) => { openBridge = resolve; });
export const connect = (server) => openBridge(server);

/** Call a Python function by name. An error becomes a toast (unless quiet) and is thrown as Failure. */
export async function call(name, args = {}, { quiet = false } = {}) {
  const server = await bridge;
  let answer;
  try {
    answer = await server.call({ name, arguments: args });
  } catch { answer = null; }
  const gone = !answer || !("value" in answer || "error" in answer); // gradio then answers nothing, or an error of its own
  offline(gone);
  if (gone) throw new Failure({ message: "The studio does not answer.", remedy: "Start it again; nothing is lost." });
  if (answer.error) {
    if (!quiet) toast(answer.error.message, { remedy: answer.error.remedy, level: "bad" });
    throw new Failure(answer.error);
  }
  return answer.value;
}

/** The same for the open project, telling everybody afterwards that something changed. */
export async function edit(name, args = {}, options) {
  const value = await call(name, { project: state.project, ...args }, options);
  changed();
  return value;
}
export const changed = () => window.dispatchEvent(new CustomEvent("ls:changed"));

function offline(yes) {
  const shown = document.getElementById("ls-offline");
  if (yes && !shown) {
    document.body.append(h("div", { id: "ls-offline", role: "alert" }, icon("warn"),
      "The studio does not answer. Is it still running? Nothing is lost; this page goes on by itself when it is back."));
  } else if (!yes && shown) { shown.remove(); }
}

// ---- toasts and dialogs ---------------------------------------------------------------------------------------------

export function toast(message, { remedy = "", level = "good", action = null, seconds = 0 } = {}) {
  let stack = document.getElementById("ls-toasts");
  if (!stack) { stack = h("div", { id: "ls-toasts", "aria-live": "polite" }); document.body.append(stack); }
  const node = h(`div.ls-toast.${level}`, { role: level === "bad" ? "alert" : "status" },
    icon(level === "good" ? "check" : "warn"),
    h("div.ls-toast-text", null, h("div.ls-toast-message", null, message), remedy && h("div.ls-toast-remedy", null, remedy)),
    action && h("button.ls-link", { type: "button", onclick: () => { node.remove(); action.run(); } }, action.text),
    h("button.ls-close", { type: "button", "aria-label": "Close message", onclick: () => node.remove() }, icon("close", 12)));
  for (const old of [...stack.children].slice(0, -2)) old.remove();
  for (const old of stack.children) if (old.textContent === node.textContent) old.remove();
  stack.append(node);
  setTimeout(() => node.remove(), 1000 * (seconds || (level === "bad" ? 12 : 4)));
  return node;
}

/** A modal dialog; resolves with the value given to close(), null on Escape. `build(close)` returns the content. */
export function dialog(title, build, { wide = false } = {}) {
  return new Promise((resolve) => {
    const node = h("dialog.ls-dialog" + (wide ? ".wide" : ""), { "aria-label": title });
    const close = (value = null) => { node.close(); node.remove(); resolve(value); };
    node.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
    node.addEventListener("click", (event) => { if (event.target === node) close(); });
    node.append(h("div.ls-dialog-body", null,
      h("div.ls-dialog-head", null, h("h2", null, title), h("button.ls-close", { type: "button", "aria-label": "Close", onclick: () => close() }, icon("close", 14))),
      build(close)));
    document.body.append(node);
    node.showModal();
  });
}
export const confirm = (title, text, yes, kind = "danger") => dialog(title, (close) => h("div", null, h("p", null, text),
  h("div.ls-row.end", null, button("Cancel", () => close(false)), button(yes, () => close(true), { kind }))));

// ---- navigation -----------------------------------------------------------------------------------------------------

export function go(project, step, { push = true } = {}) {
  state.project = project || "";
  state.step = STEPS.includes(step) ? step : "conception";
  if (!state.project) state.step = "conception";
  const query = new URLSearchParams(location.search);
  query.delete("project"); query.delete("step");
  if (state.project) { query.set("project", state.project); query.set("step", state.step); }
  const address = location.pathname + (query.size ? "?" + query : "");
  if (push && address !== location.pathname + location.search) history.pushState(null, "", address);
  document.body.dataset.step = state.step;
  document.body.dataset.open = state.project ? "yes" : "no";
  const tab = document.getElementById(`steptab-${state.step}-button`);
  if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  window.dispatchEvent(new CustomEvent("ls:go"));
}
export const thumb = (image) => `/media/${encodeURIComponent(state.project)}/${image.id}/thumb?v=${image.v}`;
export const full = (image) => `/media/${encodeURIComponent(state.project)}/${image.id}/full?v=${image.v}`;

/** Whether a key press belongs to a text field rather than to the page. */
export const typing = (event) => event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") !== null ||
  /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable;
export const showing = (element) => element.offsetParent !== null;

/** Run `work` now and every `seconds` while `element` is shown and the page is visible. */
export function poll(element, seconds, work) {
  let busy = false;
  const tick = async () => {
    if (busy || document.hidden || !element.isConnected || !showing(element)) return;
    busy = true;
    try { await work(); } catch (error) { if (!(error instanceof Failure)) throw error; } finally { busy = false; }
  };
  setInterval(tick, 1000 * seconds);
  return tick;
}

// ---- parts: gr.HTML elements call LS.mount(name, element, server, trigger) ---------------------------------------------

const parts = {};
const waiting = [];
export function part(name, build) {
  parts[name] = build;
  for (const args of waiting.splice(0)) mount(...args);
}
export function mount(name, element, server, trigger) {
  if (!parts[name]) { waiting.push([name, element, server, trigger]); return; }
  const root = element.querySelector(".ls-part") || element;
  if (root.dataset.mounted) return;
  root.dataset.mounted = "yes";
  if (server && server.call) connect(server);
  parts[name](root, trigger);
}
