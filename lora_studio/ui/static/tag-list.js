// The project's tags beside the grid, drawn only as far as they can be seen: to find one, and to filter by them.
import { fill, h, icon, number } from "./core.js";
import { tagIndex } from "./tag-index.js";

const ROW = 26;

/**
 * {node, draw(bare, trigger), test(image), chips(), clear(), active}. A row is chosen by click or Enter: only pictures with
 * it, then all but these, then no matter. `bare`: rows for pictures without a text, [{key, title, count, lacks(image)}].
 */
export function tagList({ onChange }) {
  const filter = new Map(); // key -> {title, yes, test(image)}
  let rows = [], bare = [], trigger = "", search = "", at = 0;
  const find = h("input.ls-search", { type: "search", id: "ls-find-tag", placeholder: "Find a tag", "aria-label": "Find a tag", oninput: () => { search = find.value.toLowerCase(); at = 0; scroller.scrollTop = 0; list(); } });
  const space = h("div.ls-tag-space");
  const scroller = h("div.ls-taglist-rows", { tabindex: "0", role: "listbox", "aria-label": "Tags", "aria-multiselectable": "true" }, space);
  const node = h("div.ls-taglist", null, h("div.ls-search-box", null, icon("search", 14), find), scroller);

  function toggle(row) {
    const now = filter.get(row.key);
    if (!now) filter.set(row.key, { title: row.title, yes: true, test: row.lacks || ((image) => tagIndex.has(image, row.key)) });
    else if (now.yes) now.yes = false;
    else filter.delete(row.key);
    paint();
    onChange();
  }
  function list() {
    rows = [...bare.filter((row) => (row.count || filter.has(row.key)) && row.title.includes(search)), ...tagIndex.counts().filter((word) => word.key.includes(search)).map((word) => ({ key: word.key, title: word.name, count: word.count }))];
    at = Math.min(at, Math.max(0, rows.length - 1));
    paint();
  }
  function paint() {
    space.style.height = `${rows.length * ROW}px`;
    if (!rows.length) { fill(space, h("div.ls-none", null, search ? "No tag of that name." : "Tags appear here with how many pictures have them.")); return; }
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW)), last = Math.min(rows.length, first + Math.ceil(scroller.clientHeight / ROW) + 1);
    scroller.setAttribute("aria-activedescendant", `ls-tagrow-${at}`);
    fill(space, rows.slice(first, last).map((row, index) => {
      const place = first + index, chosen = filter.get(row.key);
      return h("div.ls-tagrow" + (chosen ? (chosen.yes ? ".yes" : ".no") : "") + (place === at ? ".at" : ""), { role: "option", id: `ls-tagrow-${place}`, "aria-selected": String(Boolean(chosen)), "data-place": place, "data-count": number(row.count), title: "Click: only these. Again: all but these.", style: `top:${place * ROW}px` },
        h("span.ls-ellipsis" + (row.lacks ? ".ls-warn" : "") + (trigger && row.key === trigger.toLowerCase() ? ".ls-accent" : ""), null, row.title));
    }));
  }

  scroller.addEventListener("scroll", () => paint(), { passive: true });
  new ResizeObserver(() => paint()).observe(scroller);
  space.addEventListener("click", (event) => {
    const row = event.target.closest(".ls-tagrow");
    if (row) { at = Number(row.dataset.place); toggle(rows[at]); }
  });
  function onKey(event) {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity }[event.key];
    if (move && rows.length && (event.target === scroller || Math.abs(move) === 1)) {
      event.preventDefault();
      event.stopPropagation(); // it moves here, not in the grid
      at = event.target === scroller ? Math.min(rows.length - 1, Math.max(0, at + move)) : 0;
      scroller.focus();
      if (at * ROW < scroller.scrollTop) scroller.scrollTop = at * ROW;
      else if ((at + 1) * ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = (at + 1) * ROW - scroller.clientHeight;
      paint();
    } else if ((event.key === "Enter" || (event.key === " " && event.target === scroller)) && rows[at]) { event.preventDefault(); event.stopPropagation(); toggle(rows[at]); }
    else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      if (search) { find.value = search = ""; list(); } else node.dispatchEvent(new CustomEvent("ls:leave", { bubbles: true })); // back to the grid
    }
  }
  node.addEventListener("keydown", onKey);

  return {
    node,
    draw(rowsOfBare, word) { bare = rowsOfBare; trigger = word || ""; list(); },
    test: (image) => { for (const one of filter.values()) if (one.test(image) !== one.yes) return false; return true; },
    chips: () => [...filter].map(([key, one]) => h("button.ls-filter" + (one.yes ? "" : ".reject"), { type: "button", title: "Remove this filter", onclick: () => { filter.delete(key); paint(); onChange(); } }, one.yes ? "" : "not ", one.title, icon("close", 9))),
    clear() { filter.clear(); paint(); },
    focus: () => find.focus(),
    get active() { return filter.size > 0; },
    /** The tag that alone is asked for, if there is one. */
    get only() { const wanted = [...filter].filter(([key, one]) => one.yes && tagIndex.count(key)); return wanted.length === 1 ? wanted[0][1].title : ""; },
  };
}
