// A grid of pictures that draws only what can be seen: 10,000 pictures scroll like 100. Keyboard and mouse selection.
import { fill, full, h, icon, showing, thumb, typing } from "./core.js";
import { sharedView } from "./zoom.js";

const GAP = 8;
const FOOT = 24;

// Who comes to a tab by mouse wants the keys for the pictures, not for the step bar that the click has focused.
let byMouse = false;
document.addEventListener("pointerdown", () => { byMouse = true; }, true);
document.addEventListener("keydown", () => { byMouse = false; }, true);
window.addEventListener("ls:go", () => { if (byMouse && document.activeElement && document.activeElement.closest("[role=tablist]")) document.activeElement.blur(); });

export const SIZES = { S: 96, M: 132, L: 188 };

/**
 * options: label, empty() -> node, foot(image) -> text, badges(image) -> [{text, level}], dim(image) -> bool, mark(image) ->
 * one short text in the corner, in place of badges and without an element of its own; warn(image) -> bool, colours it,
 * suggest(image) -> {decision, reason} or null, onCurrent(image), onSelect(ids), onKey(event) -> true when handled.
 */
export function createGrid(options) {
  const spacer = h("div.ls-grid-space");
  const scroller = h("div.ls-grid", { tabindex: "0", role: "listbox", "aria-label": options.label || "Pictures", "aria-multiselectable": "true" }, spacer);
  const cells = new Map();
  let rows = [];
  let places = new Map();
  let current = -1;
  let anchor = -1;
  let selection = new Set();
  let target = SIZES[localStorage.getItem("lora-studio-size")] || SIZES.M;
  let columns = 1, width = 0, height = 0;
  let viewer = null;

  function measure() {
    const inner = scroller.clientWidth - 2;
    if (inner <= 0) return false;
    columns = Math.max(1, Math.floor((inner + GAP) / (target + GAP)));
    width = Math.floor((inner - GAP * (columns - 1)) / columns);
    height = width + FOOT;
    spacer.style.height = `${Math.ceil(rows.length / columns) * (height + GAP)}px`;
    spacer.style.setProperty("--side", `${width}px`);
    return true;
  }

  function makeCell(image, index) {
    const selected = selection.has(image.id);
    const badges = options.badges ? options.badges(image) : [];
    const suggested = options.suggest ? options.suggest(image) : null;
    const mark = options.mark ? options.mark(image) : null;
    const told = [image.name, mark, ...badges.map((badge) => badge.text), ...(suggested ? [`suggested: ${suggested.decision}`] : [])];
    return h("div.ls-cell" + (selected ? ".selected" : "") + (index === current ? ".current" : "") + (options.dim && options.dim(image) ? ".dim" : ""), {
      role: "option", id: `${scroller.id}-${image.id}`, "aria-selected": String(selected), "aria-label": told.filter(Boolean).join(", "), "data-mark": mark, "data-warn": Boolean(options.warn && options.warn(image)),
      "data-id": image.id, "data-decision": image.decision, "data-suggested": suggested && suggested.decision, title: suggested && suggested.reason ? `Suggested: ${suggested.decision}, ${suggested.reason}` : null,
    }, h("img", { src: thumb(image), alt: "", draggable: "false", decoding: "async", onerror: (event) => event.target.replaceWith(icon("image", 22)) }),
      badges.length > 0 && h("div.ls-badges", null, badges.slice(0, 3).map((badge) => h(`span.ls-badge.${badge.level || "info"}`, { title: badge.title || null }, badge.text))),
    h("div.ls-cell-foot", null, options.foot ? options.foot(image) : image.name));
  }

  const stamp = (image, index) => [image.v, image.decision, options.foot ? options.foot(image) : "", selection.has(image.id), index === current, options.mark && options.mark(image), options.warn && options.warn(image), JSON.stringify([options.badges && options.badges(image), options.suggest && options.suggest(image)]), width].join("|");

  function draw() {
    if (!rows.length || !measure()) {
      for (const cell of cells.values()) cell.node.remove();
      cells.clear();
      return;
    }
    const first = Math.max(0, Math.floor(scroller.scrollTop / (height + GAP)) - 1) * columns;
    const last = Math.min(rows.length, (Math.ceil((scroller.scrollTop + scroller.clientHeight) / (height + GAP)) + 1) * columns);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) {
      const image = rows[index];
      wanted.add(image.id);
      const key = stamp(image, index);
      let cell = cells.get(image.id);
      if (!cell || cell.key !== key) {
        const node = makeCell(image, index);
        if (cell) { // keep the decoded picture: no flicker
          const old = cell.node.querySelector("img"), fresh = node.querySelector("img");
          if (old && fresh && old.getAttribute("src") === fresh.getAttribute("src")) fresh.replaceWith(old);
          cell.node.replaceWith(node);
        } else { spacer.append(node); }
        cell = { node, key };
        cells.set(image.id, cell);
      }
      const left = (index % columns) * (width + GAP), top = Math.floor(index / columns) * (height + GAP);
      cell.node.style.cssText = `width:${width}px;height:${height}px;transform:translate(${left}px,${top}px)`;
    }
    for (const [id, cell] of cells) if (!wanted.has(id)) { cell.node.remove(); cells.delete(id); }
  }
  let asked = false;
  const later = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } };

  function scrollTo(index) {
    if (!height) return;
    const top = Math.floor(index / columns) * (height + GAP);
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height - scroller.clientHeight;
  }

  function tell() {
    scroller.setAttribute("aria-activedescendant", rows[current] ? `${scroller.id}-${rows[current].id}` : "");
    if (options.onCurrent) options.onCurrent(rows[current] || null);
    if (options.onSelect) options.onSelect([...selection]);
    if (viewer) viewer();
  }

  function choose(index, { range = false, toggle = false } = {}) {
    if (index < 0 || index >= rows.length) return;
    const id = rows[index].id;
    if (range && anchor >= 0) {
      const [from, to] = anchor < index ? [anchor, index] : [index, anchor];
      selection = new Set(rows.slice(from, to + 1).map((image) => image.id));
    } else if (toggle) {
      if (selection.has(id)) selection.delete(id); else selection.add(id);
      anchor = index;
    } else {
      selection = new Set([id]);
      anchor = index;
    }
    current = index;
    scrollTo(index);
    draw();
    tell();
  }

  function onKey(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (move && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      choose(current < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, current + move)), { range: event.shiftKey });
      return true;
    }
    const page = Math.max(1, Math.floor(scroller.clientHeight / (height + GAP))) * columns;
    const jump = { Home: 0, End: rows.length - 1, PageUp: Math.max(0, current - page), PageDown: Math.min(rows.length - 1, current + page) }[event.key];
    if (jump !== undefined) { event.preventDefault(); choose(jump, { range: event.shiftKey }); return true; }
    if ((event.key === "Enter" || event.key === " ") && rows[current]) { event.preventDefault(); open(); return true; }
    if (event.key === "Escape" && selection.size > 1) { choose(current); return true; }
    return false;
  }

  /** The current picture over the whole page. */
  function open() {
    if (!rows[current] || viewer) return;
    viewer = enlarge(() => ({ rows, index: current }), choose, options.onKey, () => { viewer = null; scroller.focus({ preventScroll: true }); });
  }

  scroller.id = `ls-grid-${Math.random().toString(36).slice(2, 8)}`;
  scroller.addEventListener("scroll", later, { passive: true });
  spacer.addEventListener("click", (event) => {
    const cell = event.target.closest(".ls-cell");
    if (cell) choose(places.get(Number(cell.dataset.id)), { range: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
  });
  spacer.addEventListener("dblclick", (event) => { if (event.target.closest(".ls-cell")) open(); });
  new ResizeObserver(later).observe(scroller);
  document.addEventListener("keydown", (event) => {
    const all = (event.ctrlKey || event.metaKey) && event.key === "a" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName) && !document.querySelector("dialog[open]");
    if ((typing(event) && !all) || !showing(scroller)) return; // in this order: what is typed must not wait for a layout
    if (all) {
      event.preventDefault();
      selection = new Set(rows.map((image) => image.id));
      draw(); tell();
      return;
    }
    if (event.target.closest("[role=tablist], .ls-chips")) return;
    if (event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ")) return;
    if (onKey(event)) return;
    if (options.onKey && options.onKey(event)) event.preventDefault();
  });

  return {
    node: scroller,
    get rows() { return rows; },
    get current() { return rows[current] || null; },
    get selected() { return rows.filter((image) => selection.has(image.id)).map((image) => image.id); },
    draw,
    /** Show these pictures; the current one and the selection stay where they can. */
    set(images) {
      const before = rows[current] && rows[current].id;
      const was = current;
      rows = images;
      places = new Map(rows.map((image, index) => [image.id, index]));
      selection = new Set([...selection].filter((id) => places.has(id)));
      current = before !== undefined && places.has(before) ? places.get(before) : rows.length ? Math.min(Math.max(was, 0), rows.length - 1) : -1;
      if (!selection.size && rows[current]) selection = new Set([rows[current].id]);
      anchor = current;
      const old = scroller.querySelector(".ls-empty");
      if (old) old.remove();
      if (!rows.length && options.empty) scroller.append(options.empty());
      draw();
      tell();
    },
    choose,
    enlarge: open,
    next() { choose(Math.min(rows.length - 1, current + 1)); },
    place: (id) => places.get(id),
    size(name) { target = SIZES[name]; localStorage.setItem("lora-studio-size", name); draw(); if (current >= 0) scrollTo(current); },
    get sizeName() { return Object.keys(SIZES).find((name) => SIZES[name] === target); },
  };
}

/** S, M, L for the size of the pictures. */
export function sizeButtons(grid) {
  const box = h("div.ls-segments", { role: "group", "aria-label": "Size of the pictures" });
  const draw = () => fill(box, Object.keys(SIZES).map((name) => h("button.ls-segment" + (name === grid.sizeName ? ".current" : ""), { type: "button", "aria-pressed": String(name === grid.sizeName), onclick: () => { grid.size(name); draw(); } }, name)));
  draw();
  return box;
}

const DECIDED = { keep: ["kept", "good"], maybe: ["maybe", "maybe"], reject: ["rejected", "bad"] };

/**
 * The grid's current picture over the whole page: `now()` -> {rows, index}. Arrows go on, wheel and + zoom, other keys
 * do what they do in the grid. Returns what draws it anew when the grid has moved on.
 */
function enlarge(now, onMove, onKey, onClosed) {
  const view = sharedView(), stage = view.stage(), line = h("div.ls-viewer-line");
  const node = h("dialog.ls-viewer", { tabindex: "-1", "aria-label": "Picture" }, stage.node, line);
  let shown = 0;
  const close = () => { if (node.isConnected) { node.close(); node.remove(); onClosed(); } };
  function draw() {
    const { rows, index } = now();
    const image = rows[index];
    if (!image) { close(); return; }
    if (shown !== image.id) view.reset();
    shown = image.id;
    stage.show(full(image), image.name);
    const decided = DECIDED[image.decision];
    fill(line, h("span", null, `${index + 1} / ${rows.length}`), h("span", null, image.name), h("span", null, `${image.width} × ${image.height}`),
      decided && h(`span.ls-badge.${decided[1]}`, null, decided[0]), h("span.ls-faint", null, "wheel or + zooms · arrows go on · Esc closes"),
      h("button.ls-close", { type: "button", "aria-label": "Close", onclick: close }, icon("close")));
    if (node.open && !node.contains(document.activeElement)) node.focus(); // the button that had it was drawn anew
  }
  node.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  node.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const { rows, index } = now();
    const move = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (move) { event.preventDefault(); onMove(Math.min(rows.length - 1, Math.max(0, index + move))); return; }
    if (view.onKey(event)) return;
    if (event.key === "Escape") return;
    if (["Enter", " "].includes(event.key) || event.key.toLowerCase() === "z") { if (event.target.tagName !== "BUTTON" || event.key === "z") { event.preventDefault(); close(); } return; }
    if (event.ctrlKey || event.metaKey || event.altKey || ["x", "c", "/"].includes(event.key.toLowerCase())) return;
    if (onKey && onKey(event)) event.preventDefault();
  });
  document.body.append(node);
  draw();
  node.showModal();
  node.focus();
  return draw;
}
