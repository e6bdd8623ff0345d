"""The rules, one file each: how the weights follow from the losses."""
