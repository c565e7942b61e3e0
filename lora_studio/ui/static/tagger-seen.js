// "As trained": the captions as training will show them, and what the base's tokenizer makes of the trigger.
import { h } from "./core.js";

/** {name, title, draw(node)}: a view of the Tagging tab. draw(node) fills `node`; call it again when pictures changed. */
export function seenView() {
  return { name: "seen", title: "As trained", draw(node) { node.replaceChildren(h("div")); } };
}
