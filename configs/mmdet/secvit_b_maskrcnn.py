_base_ = './secvit/secvit_b_maskrcnn.py'
