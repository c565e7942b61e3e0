// The sentence of the setting under the pointer or with the focus, at the foot of a form: gradio's own would double its length.
import { fill, h, part } from "./core.js";

part("formhelp", (root) => {
  const form = root.closest(".ls-form");
  const idle = () => fill(root, h("span", null, "Point at a setting to read what it does."));
  const tell = (event) => {
    const block = event.target.closest && event.target.closest(".block[id^=ls-set-]");
    const text = block && block.querySelector(".info-text");
    if (!text) return;
    const title = block.querySelector("[data-testid=block-info], label > span");
    fill(root, h("b", null, (title ? title.textContent : "").trim(), ": "), text.textContent, block.dataset.name && h("code", { title: "Its name in presets and on the command line" }, block.dataset.name));
  };
  form.addEventListener("mouseover", tell);
  form.addEventListener("focusin", tell);
  form.addEventListener("mouseleave", () => { const active = document.activeElement; if (form.contains(active)) tell({ target: active }); else idle(); });
  idle();
});
