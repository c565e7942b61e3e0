"""The auto-tagger and the embeddings of pictures and words. This file imports no torch; `config` and `choose` neither."""
