"""Readers of the forms in which others keep their corpora; maya.data.folder chooses among them."""
