// Where pictures are from and by what right they are used; edited for one or for all that are selected.
import { Failure, call, fill, h, plural, state, toast } from "./core.js";
import { editPictures } from "./pictures.js";

const FIELDS = [
  ["source", "Source", "folder, archive or site"], ["url", "Address", "https://…"], ["author", "Author", "who made it"],
  ["licence", "Licence", "for example CC BY 4.0"], ["consent", "Consent", "who agreed, and when"],
];

/** {node, show(ids)}: folded until somebody looks; asks for the values only then. */
export function provenance() {
  let ids = [], shown = "", timer = 0;
  const rows = h("div.ls-stack");
  const summary = h("summary", null, "Where it is from");
  const node = h("details.ls-origin", { id: "ls-origin", ontoggle: () => ask() }, summary, rows);
  node.open = localStorage.getItem("lora-studio-origin") === "open";

  async function ask() {
    localStorage.setItem("lora-studio-origin", node.open ? "open" : "");
    const key = state.project + ids.join();
    if (!node.open || !ids.length || key === shown) return;
    const project = state.project;
    try {
      const values = await call("curation.provenance", { project, ids }, { quiet: true });
      if (key !== state.project + ids.join()) return;
      shown = key;
      draw(values);
    } catch (error) { if (!(error instanceof Failure)) throw error; }
  }

  function draw(values) {
    fill(rows, FIELDS.map(([name, title, hint]) => {
      const { value, mixed } = values[name];
      const input = h("input.ls-input", { type: "text", value, "data-field": name, placeholder: mixed ? "several; type to set all" : hint, title: value, onchange: () => save(name, input, value) });
      return h("label.ls-field", null, h("span.ls-muted", null, title), input);
    }));
  }

  async function save(name, input, before) {
    const mine = [...ids];
    try {
      await editPictures("curation.set_provenance", { ids: mine, values: { [name]: input.value.trim() } });
      if (mine.length > 1) toast(`${FIELDS.find(([field]) => field === name)[1]} set on ${plural(mine.length, "picture")}`);
    } catch (error) { input.value = before; throw error; }
  }

  window.addEventListener("ls:revision", () => { shown = ""; ask(); });
  return {
    node,
    show(next) {
      if (next.join() === ids.join()) return;
      ids = next;
      summary.textContent = ids.length > 1 ? "Where they are from" : "Where it is from";
      clearTimeout(timer);
      timer = setTimeout(ask, 120); // not for every picture that the arrows pass
    },
  };
}
