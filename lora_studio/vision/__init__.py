"""What OpenCV and PyAV see: faces, lettering, the subject's outline, frames of a video.

Their only home; used in jobs, never in the page's process."""
