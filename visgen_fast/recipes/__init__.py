"""Complete systems, each a short file: settings with defaults, the images, and the system to train on them.

A recipe is a module whose docstring's first line says what it trains, with

    Settings                     a frozen dataclass derived from `TrainingSettings`
    images(settings)           the data set
    held_out(settings)           optional: images kept from training, which the run's figures and metrics are made of
    system(settings, format)     the system for images of that format

A recipe of one's own is a Python file with these names, given by its path.
"""
