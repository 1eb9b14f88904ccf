"""Models on disk: finding, loading, adapters, templates, cards."""
