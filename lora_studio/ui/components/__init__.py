"""Building blocks of the page. Factories of gr.HTML, never subclasses: gradio writes a .pyi beside those."""
