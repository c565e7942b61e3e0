// What is trained on of a picture: its crop.
import { call, state } from "./core.js";
import { cropEditor } from "./crop.js";
import { editPictures } from "./pictures.js";

/** The editor of the inspector: {node, show(image or null, fresh), focus()}. `fresh`: another picture than before. */
export function shapeEditor() {
  let image = null;
  const editor = cropEditor({
    onSave: (box) => editPictures("curation.crop", { id: image.id, box }),
    measure: (box) => call("curation.bucket", { project: state.project, id: image.id, box }, { quiet: true }),
  });
  return { node: editor.node, focus: editor.focus, show(next, fresh) { image = next; editor.show(next, fresh); } };
}
