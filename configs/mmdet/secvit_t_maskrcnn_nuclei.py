_base_ = './secvit/secvit_t_maskrcnn_nuclei.py'
