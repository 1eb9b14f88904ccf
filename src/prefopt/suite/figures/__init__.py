"""Pictures: SVG figures, pages, rendered episodes."""
