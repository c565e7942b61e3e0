"""The studio in the browser. The only home of gradio; it never imports torch."""
