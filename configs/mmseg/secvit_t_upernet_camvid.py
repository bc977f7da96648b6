_base_ = './secvit/secvit_t_upernet_camvid.py'
