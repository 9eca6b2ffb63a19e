"""Pictures that keep coming: the frames of videos and cameras, and files that appear in a folder."""
