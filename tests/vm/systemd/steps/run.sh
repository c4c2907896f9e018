# Programs run out of the image, in a container and as a service, and see their root on dm-verity.
trust trusted
app_said 'in a container' "$(nspawn /disk/app.raw)"
app_said 'as a service' "$(service /disk/app.raw)"
nothing_left
