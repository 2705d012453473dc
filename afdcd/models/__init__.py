"""Networks: a timm backbone, a head and a classifier make a Segmenter."""
