"""Words shared by every part: settings, projects, pictures, captions, jobs. Imports neither torch nor gradio."""
