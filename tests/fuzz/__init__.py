"""The random differential client: what a server must answer is known from the request alone.

From a seed a plan is made (`plan`, `cover`): which configurations are served, what each client
sends, what is killed, reloaded and scaled meanwhile. Clients (`clients`) send it; `expected` says
what each answer must be, `verdict` what may be lost, and why. One configuration, served for some
seconds, is a round (`rounds`).
"""
