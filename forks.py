import os

for _ in range(3000):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
