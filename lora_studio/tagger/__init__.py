"""The auto-tagger and the embeddings of pictures and words. Neither this file, `config` nor `choose` imports torch."""
