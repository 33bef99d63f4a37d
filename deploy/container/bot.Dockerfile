# The bot of compose.yaml: examples/discord_py_bot.py.
FROM python:3.13-slim
WORKDIR /bot
COPY . .
RUN pip install --no-cache-dir --root-user-action=ignore --constraint constraints.txt . discord.py
USER 10001:10001
CMD ["python", "examples/discord_py_bot.py"]
