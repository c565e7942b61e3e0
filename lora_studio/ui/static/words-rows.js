// A table of tags that draws only the rows that can be seen. Selecting by keyboard and mouse as in the grid of pictures.
import { fill, h, icon } from "./core.js";

const HEIGHT = 32;
const BEYOND = 6; // rows drawn above and below what is seen

/**
 * options: label, columns: [{name, title, hint, number}], cells(row) -> nodes, one for each column; key(row) -> text;
 * onSort(name), onSelect(), onKey(event) -> true when handled, onOpen(row).
 */
export function tagRows({ label, columns, cells, key, onSort, onSelect, onKey, onOpen }) {
  const head = h("div.ls-tags-row.head", { role: "row", "aria-rowindex": "1" }), space = h("div.ls-tags-space");
  const node = h("div.ls-tags-rows", { tabindex: "0", role: "grid", "aria-label": label, "aria-multiselectable": "true", id: "ls-tags" }, head, space);
  let rows = [], places = new Map(), selected = new Set(), current = -1, anchor = -1, sort = { name: "", down: false };

  const chosen = (index) => selected.has(key(rows[index]));
  function makeRow(index) {
    const row = rows[index], on = chosen(index);
    return h("div.ls-tags-row" + (on ? ".selected" : "") + (index === current ? ".current" : ""), { role: "row", id: `ls-tags-${index}`, "aria-rowindex": String(index + 2), "aria-selected": String(on), "data-tag": key(row), "data-index": String(index), style: `transform:translateY(${index * HEIGHT}px)` },
      h("span.ls-tick", { "aria-hidden": "true", "data-tick": "" }, on && icon("check", 12)), cells(row).map((cell) => h("div", { role: "gridcell" }, cell)));
  }

  function draw() {
    space.style.height = `${rows.length * HEIGHT}px`;
    const top = Math.max(0, node.scrollTop), first = Math.max(0, Math.floor(top / HEIGHT) - BEYOND), last = Math.min(rows.length, Math.ceil((top + node.clientHeight) / HEIGHT) + BEYOND);
    const shown = [];
    for (let index = first; index < last; index += 1) shown.push(makeRow(index));
    fill(space, shown);
    node.setAttribute("aria-rowcount", String(rows.length + 1));
    if (rows[current]) node.setAttribute("aria-activedescendant", `ls-tags-${current}`); else node.removeAttribute("aria-activedescendant");
  }
  function drawHead() {
    const held = head.contains(document.activeElement) ? document.activeElement.dataset.sort : "";
    fill(head, h("span"), columns.map(({ name, title, hint, number }) => h("div" + (number ? ".number" : ""), { role: "columnheader", "aria-sort": sort.name === name ? (sort.down ? "descending" : "ascending") : "none" },
      h("button.ls-tags-sort" + (sort.name === name ? ".current" : ""), { type: "button", title: hint || `Sort by ${title.toLowerCase()}`, "data-sort": name, onclick: () => onSort(name) }, title, h("span", { "aria-hidden": "true" }, sort.name === name ? (sort.down ? "↓" : "↑") : "")))));
    if (held) head.querySelector(`[data-sort="${held}"]`).focus();
  }
  let waiting = false;
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  node.addEventListener("scroll", later);
  new ResizeObserver(later).observe(node);

  function into(index) {
    const top = index * HEIGHT, seen = node.clientHeight - head.offsetHeight;
    if (top < node.scrollTop) node.scrollTop = top;
    else if (top + HEIGHT > node.scrollTop + seen) node.scrollTop = top + HEIGHT - seen;
  }
  function choose(index, { range = false, toggle = false } = {}) {
    if (!rows.length) return;
    index = Math.max(0, Math.min(rows.length - 1, index));
    const name = key(rows[index]);
    if (range && anchor >= 0) {
      const [from, to] = anchor < index ? [anchor, index] : [index, anchor];
      selected = new Set(rows.slice(from, to + 1).map(key));
    } else if (toggle) {
      if (!selected.delete(name)) selected.add(name);
      anchor = index;
    } else { selected = new Set([name]); anchor = index; }
    current = index;
    into(index);
    draw();
    onSelect();
  }

  node.addEventListener("click", (event) => {
    const row = event.target.closest("[data-index]");
    if (!row) return;
    choose(Number(row.dataset.index), { range: event.shiftKey, toggle: event.ctrlKey || event.metaKey || (!event.shiftKey && Boolean(event.target.closest("[data-tick]"))) });
    node.focus({ preventScroll: true });
  });
  node.addEventListener("dblclick", (event) => { const row = event.target.closest("[data-index]"); if (row) onOpen(rows[Number(row.dataset.index)]); });
  node.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); }); // no text is marked

  function keyed(event) {
    if (event.altKey) return false;
    const many = event.ctrlKey || event.metaKey, page = Math.max(1, Math.floor(node.clientHeight / HEIGHT) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length }[event.key];
    if (step) {
      if (many) { current = Math.max(0, Math.min(rows.length - 1, current + step)); into(current); draw(); } else choose(current < 0 ? 0 : current + step, { range: event.shiftKey });
      return true;
    }
    if (many && event.key.toLowerCase() === "a") { selected = new Set(rows.map(key)); anchor = 0; draw(); onSelect(); return true; }
    if (event.key === " ") { choose(Math.max(0, current), { toggle: true }); return true; }
    if (event.key === "Escape" && selected.size) { selected.clear(); draw(); onSelect(); return true; }
    if (event.key === "Enter" && rows[current]) { onOpen(rows[current]); return true; }
    return !many && onKey(event);
  }
  node.addEventListener("keydown", (event) => { if (event.target === node && keyed(event)) event.preventDefault(); });

  return {
    node,
    /** The rows to show, how they are sorted; what is selected stays so while it is among `every` (keys). */
    set(list, order, every) {
      const at = rows[current] && key(rows[current]);
      rows = list;
      sort = order;
      places = new Map(rows.map((row, index) => [key(row), index]));
      const before = selected.size;
      selected = new Set([...selected].filter((name) => every.has(name)));
      current = at && places.has(at) ? places.get(at) : Math.min(current, rows.length - 1);
      drawHead();
      draw();
      if (selected.size !== before) onSelect();
    },
    get selected() { return [...selected]; },
    select(names) { selected = new Set(names); const first = places.get(names[0]); if (first !== undefined) { current = anchor = first; into(first); } draw(); onSelect(); },
    focus() { node.focus({ preventScroll: true }); },
    keyed: (event) => event.target !== node && !node.contains(event.target) && keyed(event),
  };
}
