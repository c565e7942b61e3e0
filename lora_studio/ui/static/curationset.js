// The whole set: what the judge says of all pictures together.
import { fill, h } from "./core.js";
import { pictures } from "./pictures.js";

/**
 * The views "set", "copies" and "map": {node, draw(view)}. `show(ids, title)` goes to the grid with only these pictures,
 * `open(id)` to that one picture. All of curation.audit's answer lies in `pictures`; ls:pictures tells of changes.
 */
export function setViews({ show, open }) {
  const node = h("div.ls-setview");
  return {
    node,
    draw(view) {
      if (view !== "set") { fill(node); return; }
      fill(node, pictures.findings.map((finding) => h("div", null, h(`div.ls-note.${finding.level}`, null, finding.text), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy))));
    },
  };
}
