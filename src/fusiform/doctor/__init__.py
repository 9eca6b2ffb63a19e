"""What is wrong with a data set, before anybody trains on it: pictures, labels, boxes, masks and splits."""
