"""Complete systems, each a short file that defines one `Recipe`: its settings, its images, and what is trained on them.

The first line of the file's docstring says what the recipe trains. Files that begin with an underscore hold what
several recipes share. A recipe of one's own is a Python file with a `RECIPE` too, given by its path.
"""
