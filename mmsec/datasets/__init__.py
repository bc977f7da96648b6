"""Generated data in the layouts of COCO and ADE20K."""
