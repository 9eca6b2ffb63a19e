"""Many pictures: parts of a folder that are written whole or not at all, on one machine or several."""
