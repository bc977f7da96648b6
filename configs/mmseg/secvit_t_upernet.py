_base_ = './secvit/secvit_t_upernet.py'
