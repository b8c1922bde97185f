"""The algorithms of the papers, one page each."""
