"""One file a section, each with a function `told` that makes it of the page's content, or nothing where there is nothing to tell."""
