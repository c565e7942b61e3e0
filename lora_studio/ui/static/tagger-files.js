// Captions as files: written out for other programs, taken in from them, and a folder that is watched for their edits.
import { h } from "./core.js";

/** {node, line, draw()}: a button for the toolbar, and a line that tells of edits found in the watched folder. */
export function filesMenu() {
  return { node: h("span"), line: h("div"), draw() {} };
}
