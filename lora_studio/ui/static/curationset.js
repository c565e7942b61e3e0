// The whole set: what the judge says of all pictures together, copies side by side, the map.
import { h, showing, typing } from "./core.js";
import { copiesView } from "./copies.js";
import { mapView } from "./map.js";
import { setView } from "./setview.js";

/**
 * The views "set", "copies" and "map": {node, draw(view)}. Of `actions`, `show(ids, title)` goes to the grid with only
 * these pictures, `open(id)` to that one picture, `decide(decision, ids)` and `undo()` are the grid's. All of
 * curation.audit's answer lies in `pictures`; ls:pictures tells of changes.
 */
export function setViews(actions) {
  const views = { set: setView(actions), copies: copiesView(actions), map: mapView(actions) };
  const node = h("div.ls-setview", null, Object.values(views).map((view) => view.node));
  let current = "";

  document.addEventListener("keydown", (event) => {
    const view = views[current];
    const all = (event.ctrlKey || event.metaKey) && event.key === "a" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName) && !document.querySelector("dialog[open]");
    if (!view || !view.onKey || !showing(node) || (typing(event) && !all) || event.target.closest("[role=tablist]")) return;
    if (event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ")) return;
    if (event.key.toLowerCase() === "u") { event.preventDefault(); actions.undo().catch(() => {}); return; }
    if (view.onKey(event)) event.preventDefault();
  });

  return {
    node,
    draw(name) {
      current = name;
      for (const [key, view] of Object.entries(views)) view.node.hidden = key !== name;
      if (views[name]) views[name].draw();
    },
  };
}
