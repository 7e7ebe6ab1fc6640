package dev.addkit.stickers;

import com.getcapacitor.BridgeActivity;

public class MainActivity extends BridgeActivity {}
