#!/bin/sh
# to-mp3.sh INPUT OUTPUT: the sound of INPUT as a small MP3, good enough for speech.
set -eu
exec ffmpeg -nostdin -nostats -hide_banner -xerror -i "$1" -ac 1 -ar 22050 -b:a 32k "$2"
