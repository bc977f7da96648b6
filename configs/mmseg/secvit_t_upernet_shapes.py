_base_ = './secvit/secvit_t_upernet_shapes.py'
