// Tagging's views of all captions together: Tags, Check, Absorbed, Charts.
import { absorbedView } from "./words-absorbed.js";
import { chartsView } from "./words-charts.js";
import { checkView } from "./words-check.js";
import { tableView } from "./words-table.js";

/**
 * A list of {name, title, draw(node), onKey(event)}: draw fills the node with the view and asks for what it shows when
 * the captions have changed; onKey answers whether the key was for it. Call draw again at every ls:pictures.
 *
 * Of the options, show(ids, title) goes to the grid with only these pictures; scope() answers which pictures a change
 * can be narrowed to, and what captions are: {filtered: ids or null without a filter, selected: ids, mode: "tags", "prose"
 * or "both"}.
 */
export function tagViews({ show, scope }) {
  const views = [["tags", "Tags", tableView], ["check", "Check", checkView], ["absorbed", "Absorbed", absorbedView], ["charts", "Charts", chartsView]];
  return views.map(([name, title, make]) => {
    const view = make({ show, scope });
    return {
      name,
      title,
      draw(node) { if (view.node.parentNode !== node) node.replaceChildren(view.node); view.draw(); },
      onKey: (event) => Boolean(view.onKey && view.onKey(event)),
    };
  });
}
